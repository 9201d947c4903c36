"""onedial inside other people's trainers, one module for each: `trl_host`."""
