// The files of the embedded model as read-only data. The build gives the assembler their folder.

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

  .section .note.GNU-stack, "", %progbits
