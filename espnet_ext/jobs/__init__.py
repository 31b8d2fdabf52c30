"""Work on a whole corpus in shards, by one process, several, or a dask cluster, with one and the same result."""

from espnet_ext.jobs.finished import Record, remove_shards
from espnet_ext.jobs.shards import Work, cut, run_groups, run_shards
from espnet_ext.jobs.workers import Workers, add_worker_options

__all__ = ["Record", "Work", "Workers", "add_worker_options", "cut", "remove_shards", "run_groups", "run_shards"]
