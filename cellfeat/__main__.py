"""`python -m cellfeat`, as launchers want it."""

from cellfeat.cli import main

if __name__ == "__main__":
    main()
