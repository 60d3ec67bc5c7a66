"""Pools of workers, local and on Slurm: the only room that imports Dask."""
