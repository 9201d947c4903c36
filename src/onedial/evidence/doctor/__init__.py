"""What onedial finds on a machine and will use of it: every line is measured or asked for, none assumed."""
