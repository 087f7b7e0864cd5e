"""``train`` and ``encode``: objectives, the trained networks, Lightning's fit loop."""
