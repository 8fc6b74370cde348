"""Bridges to MMSegmentation and torchvision: nothing else imports these libraries."""
