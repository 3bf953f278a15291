# file: kernel/sched/deadline.c
# A core without a tick has one task, and nobody to be fair to: there the deadline server for fair tasks would only make
# it tick and interrupt it from a housekeeping core, once a second. Only debugfs could switch it off, which lockdown shuts.
s/u64 runtime =  50 \* NSEC_PER_MSEC;/u64 runtime = housekeeping_cpu(cpu_of(rq), HK_TYPE_TICK) ? 50 * NSEC_PER_MSEC : 0;/
