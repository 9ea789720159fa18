"""Work is spread over machines by Dask: boards, and processes of this one. Needs the `fleet` extra."""
