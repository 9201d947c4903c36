"""onedial inside other trainers, one module for each: `trl_host`."""
