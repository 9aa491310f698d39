"""`python -m menura` is the command `menura`."""

from menura.cli.main import main

if __name__ == "__main__":
    main()
