"""Time and memory before anything is loaded: real modules traced, rates of devices."""
