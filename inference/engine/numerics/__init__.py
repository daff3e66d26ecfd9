"""Which bits a row has: blocks and spans, the self-test that finds kernels which keep them, and what each dtype promises."""
