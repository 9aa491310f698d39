"""`python -m menura` is `menura`."""

from __future__ import annotations

from menura.cli.main import main

if __name__ == "__main__":
    main()
