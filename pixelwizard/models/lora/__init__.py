"""LoRAs: files of low-rank weights added to a network, and networks that train one."""
