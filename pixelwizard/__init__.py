"""pixelwizard: two-stage text-to-video at 2K and 4K, as a Hydra and Lightning experiment framework."""
