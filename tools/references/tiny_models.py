"""The tiny random-weight models whose checkpoints stand in tests/golden, by folder name.

Each is odd on purpose: few KV heads, a head size that is not hidden / heads, a window shorter than
the text, scalings whose ramp falls inside the head. `older` writes config.json as transformers 4
did. Weights are rounded to bf16 and stored so.
"""

SMALL = {
    "vocab_size": 211,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
DENSE = SMALL | {"intermediate_size": 80, "num_key_value_heads": 2}
# For families whose heads are hidden / heads wide.
EVEN_HEADS = {"hidden_size": 64}
MOE = SMALL | {
    "intermediate_size": 80,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 24,
    "num_experts": 10,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
}
LATENT = SMALL | {
    "intermediate_size": 80,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 3,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "norm_topk_prob": True,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}


def yarn(**more):
    return YARN | more


# name: (model class, config, how to make it)
MODELS = {
    "qwen2": ("Qwen2ForCausalLM", DENSE | EVEN_HEADS, {}),
    "qwen2_window_tied": (
        "Qwen2ForCausalLM",
        DENSE
        | EVEN_HEADS
        | {
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
        {"older": True},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        DENSE | {"head_dim": 24, "attention_bias": True, "tie_word_embeddings": True},
        {},
    ),
    "qwen3_yarn_window": (
        "Qwen3ForCausalLM",
        DENSE
        | {
            "head_dim": 24,
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": yarn(),
        },
        {},
    ),
    "llama_linear": (
        "LlamaForCausalLM",
        DENSE
        | {
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
        {"older": True},
    ),
    "llama_llama3": (
        "LlamaForCausalLM",
        DENSE
        | {
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        {},
    ),
    "llama_partial": (
        "LlamaForCausalLM",
        DENSE
        | {
            "head_dim": 24,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        {"partial": True},
    ),
    "mixtral_window_yarn": (
        "MixtralForCausalLM",
        SMALL
        | {
            "head_dim": 24,
            "num_key_value_heads": 2,
            "intermediate_size": 40,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "sliding_window": 7,
            "tie_word_embeddings": True,
            "rope_parameters": yarn(truncate=False, beta_fast=16.0, beta_slow=2.0),
        },
        {},
    ),
    "olmoe_clip": (
        "OlmoeForCausalLM",
        SMALL
        | EVEN_HEADS
        | {
            "num_key_value_heads": 2,
            "intermediate_size": 24,
            "num_experts": 10,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "attention_bias": True,
            "clip_qkv": 0.7,
        },
        {"older": True},
    ),
    "qwen2_moe_window": (
        "Qwen2MoeForCausalLM",
        MOE
        | EVEN_HEADS
        | {
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 40,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 3,
            "decoder_sparse_step": 2,
            "qkv_bias": False,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        },
        {},
    ),
    "qwen3_moe_window": (
        "Qwen3MoeForCausalLM",
        MOE
        | {
            "head_dim": 16,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 10,
            "mlp_only_layers": [1],
            "tie_word_embeddings": True,
            "rope_parameters": yarn(attention_factor=1.25),
        },
        {"older": True},
    ),
    "dbrx_pnorm": (
        "DbrxForCausalLM",
        {
            "vocab_size": 211,
            "d_model": 48,
            "n_heads": 3,
            "n_layers": 2,
            "max_seq_len": 256,
            "attn_config": {"kv_n_heads": 1, "clip_qkv": 0.7, "rope_theta": 500000.0},
            "ffn_config": {
                "ffn_hidden_size": 40,
                "moe_num_experts": 6,
                "moe_top_k": 3,
                "moe_normalize_expert_weights": 2.0,
            },
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
        {"older": True},
    ),
    "dbrx_no_norm": (
        "DbrxForCausalLM",
        {
            "vocab_size": 211,
            "d_model": 48,
            "n_heads": 3,
            "n_layers": 2,
            "max_seq_len": 256,
            "attn_config": {"kv_n_heads": 3, "clip_qkv": 50.0, "rope_theta": 10000.0},
            "ffn_config": {
                "ffn_hidden_size": 40,
                "moe_num_experts": 6,
                "moe_top_k": 2,
                "moe_normalize_expert_weights": None,
            },
        },
        {},
    ),
    "qwen3_moe_fp8_odd": (
        "Qwen3MoeForCausalLM",
        MOE
        | {
            "vocab_size": 128,
            "num_hidden_layers": 2,
            "hidden_size": 132,
            "head_dim": 24,
            "moe_intermediate_size": 130,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        # torch's grouped product wants rows of whole 16 bytes.
        {"experts": "eager", "fp8": ["lm_head", "model.layers.0.self_attn.k_proj", "model.layers.1.mlp.experts.1"]},
    ),
    "deepseek_v3_plain_q": (
        "DeepseekV3ForCausalLM",
        LATENT
        | {
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 2,
            "norm_topk_prob": False,
        },
        {},
    ),
    "deepseek_v3_yarn": (
        "DeepseekV3ForCausalLM",
        LATENT | {"rope_parameters": yarn(mscale=1.0, mscale_all_dim=1.0)},
        {"older": True},
    ),
    "deepseek_v3_yarn_halves": (
        "DeepseekV3ForCausalLM",
        LATENT
        | {
            "rope_interleave": False,
            "attention_bias": True,
            "rope_parameters": yarn(mscale=0.707, mscale_all_dim=1.2),
        },
        {},
    ),
    "deepseek_v3_no_shared": (
        "DeepseekV3ForCausalLM",
        LATENT | {"n_shared_experts": 0, "first_k_dense_replace": 0, "tie_word_embeddings": True},
        {"drop_empty": True},
    ),
    "deepseek_v3_native_heads": (
        "DeepseekV3ForCausalLM",
        LATENT
        | {
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
        {},
    ),
}
