"""One module per command of the command line; see `onedial.cli` for what each holds."""
