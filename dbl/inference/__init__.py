"""The assembled network: routing by noise level, sampling images, writing text."""
