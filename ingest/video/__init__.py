"""What turns a video into clips: timestamps, decoders, sampling, cutting, frame folders, zips."""
