"""One small module per log format; the table that lists them is onedial.analysis.logs.detect.FORMATS."""
