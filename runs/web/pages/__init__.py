"""The run screen: what a person sees under ``/app/``. Views translate; services decide."""
