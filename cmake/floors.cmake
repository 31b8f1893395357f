# The floor table. A room may include headers of rooms on lower floors, or earlier on its own floor.
# Read by CMakeLists.txt for the build order and by tools/lint/check_includes.py for the rule.
set(SLUICE_FLOOR_0 base device)
set(SLUICE_FLOOR_1 quant ops)
set(SLUICE_FLOOR_2 hub checkpoint arch trace plan dist offload kv moe model)
set(SLUICE_FLOOR_3 tokenizer sampling request decode engine sched)
set(SLUICE_FLOOR_4 chat server bench study cli)
set(SLUICE_ROOMS ${SLUICE_FLOOR_0} ${SLUICE_FLOOR_1} ${SLUICE_FLOOR_2} ${SLUICE_FLOOR_3} ${SLUICE_FLOOR_4})
