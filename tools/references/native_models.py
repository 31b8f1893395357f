"""Random-weight models of some 3 M parameters with the shapes that fast kernels are made for: heads
of 128 and 64, a latent of 512 + 64, widths that are multiples of 64. Too large to be kept beside the
tests: make_goldens.py --make native writes them where they are checked, as

    sluice verify DIR/NAME --device cuda --dtype bfloat16 --replay-routing --require-fast

Entries as in tiny_models.py. Weights deviate by 1 / sqrt(width), so that layers neither amplify nor
damp, as those of trained models do.
"""

SCALE = {"deviation": 256**-0.5}

WIDE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
MOE = WIDE | {
    "head_dim": 128,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
}
LATENT = WIDE | {
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 512,
    "moe_intermediate_size": 64,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "q_lora_rank": 192,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}

NATIVE_MODELS = {
    "native_qwen3_moe": ("Qwen3MoeForCausalLM", MOE, SCALE),
    "native_qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {key: value for key, value in MOE.items() if key != "head_dim"}
        | {"num_attention_heads": 2, "shared_expert_intermediate_size": 256, "norm_topk_prob": False},
        SCALE,
    ),
    "native_olmoe": (
        "OlmoeForCausalLM",
        WIDE
        | {
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "num_experts": 16,
            "num_experts_per_tok": 4,
        },
        SCALE,
    ),
    "native_mixtral": (
        "MixtralForCausalLM",
        WIDE
        | {
            "head_dim": 128,
            "intermediate_size": 256,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        SCALE,
    ),
    "native_dbrx": (
        "DbrxForCausalLM",
        {
            "vocab_size": 512,
            "d_model": 256,
            "n_heads": 2,
            "n_layers": 2,
            "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 500000.0},
            "ffn_config": {
                "ffn_hidden_size": 128,
                "moe_num_experts": 16,
                "moe_top_k": 4,
                "moe_normalize_expert_weights": 1.0,
            },
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
        SCALE | {"older": True},
    ),
    "native_deepseek_v3": ("DeepseekV3ForCausalLM", LATENT, SCALE),
    "native_llama": (
        "LlamaForCausalLM",
        WIDE | {"head_dim": 64, "intermediate_size": 768, "num_hidden_layers": 3},
        SCALE,
    ),
}
