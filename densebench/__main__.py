"""`python -m densebench` is the command line."""

from densebench.cli import main

if __name__ == "__main__":
    main()
