/* Client requests of callgrind, for ctypes: which calls are counted, and into which dump. Without valgrind they do
   nothing (a few shifts of a register that valgrind recognises). https://valgrind.org/docs/manual/cl-manual.html */
#include <valgrind/callgrind.h>

int counting(void) { return RUNNING_ON_VALGRIND; }

void begin(void) { CALLGRIND_START_INSTRUMENTATION; }

void zero(void) { CALLGRIND_ZERO_STATS; }

void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
