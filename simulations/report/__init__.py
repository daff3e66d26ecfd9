"""A sweep as one page: plots, tables and words, in a file that needs nothing else."""
