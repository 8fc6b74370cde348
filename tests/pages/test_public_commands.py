"""Commands on pages that everybody may read."""

import pytest

from densebench.pages.public import public


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("densebench look /home/ann/photos --backbone ckpt:/data/x/run", "densebench look .../photos --backbone ckpt:.../run"),
        ("densebench look photos --output ../look", "densebench look photos --output ../look"),
        ("densebench eval --weights=~/secret/w.pth", "densebench eval --weights=.../w.pth"),
        ("a https://user:word@host/path", "a https://host/path"),
        ("an 'unclosed quote", ""),
    ],
)
def test_private_folders_and_secrets_are_left_out(command, shown):
    assert public(command) == shown
