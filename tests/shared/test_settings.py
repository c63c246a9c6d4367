"""Settings from the environment."""

import dataclasses

import pytest

from shared import settings


@dataclasses.dataclass(frozen=True)
class Example:
    name: str = settings.text("x", "a name", "lower-case letters", "[a-z]+")
    slots: int = settings.whole(32, "jobs at a time", 1, 64)
    pause_s: float = settings.number(1.5, "a pause", 0, 9)
    colour: str = settings.choice("red", "a colour", ("red", "blue"))
    peers: tuple[str, ...] = settings.words("", "some peers")
    bind: tuple[str, int] = settings.address("127.0.0.1:8000", "where to listen")


def test_defaults() -> None:
    assert settings.read(Example, {}) == Example("x", 32, 1.5, "red", (), ("127.0.0.1", 8000))


def test_every_kind_is_read() -> None:
    environ = {
        "COROLLA_NAME": "abc",
        "COROLLA_SLOTS": "1",
        "COROLLA_PAUSE_S": "0.25",
        "COROLLA_COLOUR": "blue",
        "COROLLA_PEERS": "a, b c",
        "COROLLA_BIND": "[::]:80",
    }
    assert settings.read(Example, environ) == Example("abc", 1, 0.25, "blue", ("a", "b", "c"), ("::", 80))


def test_an_empty_variable_is_an_unset_one() -> None:
    assert settings.read(Example, {"COROLLA_SLOTS": ""}).slots == 32


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("COROLLA_NAME", "ABC", "lower-case letters"),
        ("COROLLA_SLOTS", "65", "a whole number from 1 to 64"),
        ("COROLLA_SLOTS", "many", "a whole number from 1 to 64"),
        ("COROLLA_PAUSE_S", "nan", "a number from 0 to 9"),
        ("COROLLA_COLOUR", "green", "one of red, blue"),
        ("COROLLA_BIND", "8000", "host:port, such as 127.0.0.1:8000 or [::]:8000"),
        ("COROLLA_BIND", "h:99999", "host:port, such as 127.0.0.1:8000 or [::]:8000"),
    ],
)
def test_a_wrong_value_is_one_line_with_name_and_rule(name: str, value: str, allowed: str) -> None:
    with pytest.raises(settings.SettingError) as refused:
        settings.read(Example, {name: value})
    assert str(refused.value) == f"{name} is {value!r}, but must be {allowed}"
