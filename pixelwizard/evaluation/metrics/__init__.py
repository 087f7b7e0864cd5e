"""The metrics that come with pixelwizard, one to a file; ``base`` says what a metric is."""
