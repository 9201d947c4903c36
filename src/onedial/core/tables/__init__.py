"""Tables of any kind in files: opened, recognized by content, read record by record or in blocks, with typed errors."""
