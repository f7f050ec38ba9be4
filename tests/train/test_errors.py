"""What a user is told where a program cannot go on."""

import errno

import pytest

from train.errors import UserError, told_to_the_user


def test_a_full_disk_is_said_and_other_faults_are_not_hidden(capsys):
    with pytest.raises(SystemExit), told_to_the_user():
        raise OSError(errno.ENOSPC, "No space left on device", "params.safetensors")
    said = capsys.readouterr().err
    assert "No space left on device: 'params.safetensors': make room there, and start again with" in said
    with pytest.raises(SystemExit), told_to_the_user():
        raise PermissionError(errno.EACCES, "Permission denied", "out/x.png")
    said = capsys.readouterr().err
    assert said == (
        "error: [Errno 13] Permission denied: 'out/x.png': allow it to be read and written, or pass another folder\n"
    )
    with pytest.raises(OSError, match="anything"), told_to_the_user():
        raise OSError(errno.EIO, "anything")
    with pytest.raises(SystemExit), told_to_the_user():
        raise UserError("pass something else")
    assert capsys.readouterr().err == "error: pass something else\n"
