"""`python -m robustiqa.bench.cli`: the same program as `robustiqa`."""

from __future__ import annotations

from .main import main

if __name__ == "__main__":
    main()
