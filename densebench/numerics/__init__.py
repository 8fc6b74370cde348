"""Pure functions of arrays: they know no data set, no option and no file."""
