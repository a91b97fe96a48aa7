"""How much of what a video shows can be read off frozen features or tokens by a linear map."""
