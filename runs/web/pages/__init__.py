"""The pages under ``/app/``. Views translate; actions decide."""
