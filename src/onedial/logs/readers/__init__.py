"""One small module per log format; the table that lists them is onedial.logs.detect.FORMATS."""
