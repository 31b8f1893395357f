// The files of the embedded model, and the groups of models that `pull` knows, as read-only data.
// The build gives the assembler their folders.

#define EMBED(symbol, file)  \
  .global symbol;            \
  .global symbol##_end;      \
  .balign 64;                \
  symbol:                    \
  .incbin file;              \
  symbol##_end:              \
  .byte 0

  .section .rodata, "a"
EMBED(sluice_embedded_config, "config.json")
EMBED(sluice_embedded_generation_config, "generation_config.json")
EMBED(sluice_embedded_tokenizer, "tokenizer.json")
EMBED(sluice_embedded_tokenizer_config, "tokenizer_config.json")
EMBED(sluice_embedded_safetensors, "model.safetensors")
EMBED(sluice_embedded_groups, "groups.yaml")

  .section .note.GNU-stack, "", %progbits
