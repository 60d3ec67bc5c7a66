"""What a config stands for: data files read once, the objects of the physics, and a config for a correlator file."""
