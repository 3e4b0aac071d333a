"""`python -m truing` is the console script."""

from truing.cli import main

if __name__ == "__main__":
    main()
