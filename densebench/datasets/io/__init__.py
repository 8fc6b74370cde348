"""Reading and fetching the files of data sets."""
