"""The effective configuration and what is said about a wrong one."""

from __future__ import annotations

import pytest

from node.config import Config, load_config
from protocols.errors import UserError

PATH = "/home/anna/config.toml"


def load(text=None, environment=None, **flags):
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(text, PATH, environment or {}, named)


def test_without_anything_the_defaults_hold():
    assert load() == Config()


def test_foreign_peers_are_allowed_by_an_address_alone():
    assert load().mesh.foreign_listen == ""
    assert load(mesh__foreign_listen="/ip6/::/tcp/0").mesh.foreign_listen == "/ip6/::/tcp/0"
    assert (
        load('[mesh]\nforeign_listen = "/ip6/::/tcp/1"', {"WEFT_MESH_FOREIGN_LISTEN": ""}).mesh.foreign_listen
        == ""
    )


def test_flags_win_over_environment_over_file_over_default():
    text = '[node]\nname = "file"\n[http]\nport = 1\nhost = "127.0.0.2"\n'
    environment = {"WEFT_NODE_NAME": "environment", "WEFT_HTTP_PORT": "2"}
    config = load(text, environment, node__name="flag", mesh__join=None)
    assert config.node.name == "flag"
    assert config.http.port == 2
    assert config.http.host == "127.0.0.2"
    assert config.worker.threads == 0


def test_text_of_the_environment_becomes_numbers_and_booleans():
    config = load(environment={"WEFT_WORKER_THREADS": "3", "WEFT_WORKER_ACCEPT_OFFERS": "false"})
    assert config.worker.threads == 3
    assert config.worker.accept_offers is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http]\nprot = 1\n", f"unknown key http.prot in {PATH}: did you mean http.port?"),
        ("[htpp]\nport = 1\n", f"unknown section [htpp] in {PATH}: did you mean http?"),
        ("[node]\nzzzzz = 1\n", f"unknown key node.zzzzz in {PATH}"),
        ("node = 1\n", "expected is a section [node]"),
        (
            '[http]\nport = "8747"\n',
            f"http.port in {PATH} is '8747', but expected is a port from 0 (any free one) to 65535.",
        ),
        ("[http]\nport = 70000\n", "is 70000, but expected is a port"),
        ("[worker]\naccept_offers = 1\n", "worker.accept_offers in"),
        ('[worker]\nprefix_cache = "off"\n', "worker.prefix_cache in"),
        ('[worker]\ndevice = "gpu"\n', "is 'gpu', but expected is auto, cpu or cuda"),
        ("[worker]\ntensor_parallel = 0\n", "is 0, but expected is a whole number from 1 to 64"),
        ('[worker]\nkv = "int4"\n', "is 'int4', but expected is model or int8"),
        ("[worker]\nthreads = -1\n", "expected is a whole number, 0 or more"),
        ('[model]\ndtype = "int2"\n', "is 'int2', but expected is bf16, f32, int8 or int4"),
        ('[mesh]\ncontrol_listen = "0.0.0.0:1"\n', "expected is a listen address such as"),
        (
            '[mesh]\nforeign_listen = "0.0.0.0:1"\n',
            "expected is a listen address such as /ip4/0.0.0.0/tcp/4749, or empty",
        ),
        ("[http\n", f"{PATH} is not valid TOML"),
        ('[http]\nhost = "0.0.0.0"\n', "which others can reach: set http.api_key"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_the_key(text, said):
    with pytest.raises(UserError) as caught:
        load(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("WEFT_HTTP_PROT", "did you mean WEFT_HTTP_PORT?"),
        ("WEFT_HTPP_PORT", "did you mean WEFT_HTTP_PORT?"),
        ("WEFT_NODE_COLOUR", "unknown variable WEFT_NODE_COLOUR"),
    ],
)
def test_a_mistyped_variable_is_told(variable, said):
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        load(environment={variable: "1"})


def test_variables_of_orchestrators_and_others_are_let_be():
    environment = {
        "WEFT_HOME": "/h",
        "WEFT_SERVICE_HOST": "10.0.0.1",
        "WEFT_PORT_4747_TCP": "x",
        "PATH": "/bin",
    }
    assert load(environment=environment) == Config()


def test_an_ill_typed_variable_names_itself():
    with pytest.raises(UserError, match=r"http\.port in \$WEFT_HTTP_PORT is 'many'"):
        load(environment={"WEFT_HTTP_PORT": "many"})


def test_a_secret_is_not_repeated_in_an_error():
    with pytest.raises(UserError) as caught:
        load("[http]\napi_key = 123456\n")
    assert "123456" not in str(caught.value)


def test_a_key_opens_http_to_others():
    assert load('[http]\nhost = "0.0.0.0"\napi_key = "k"\n').http.host == "0.0.0.0"


# Lists -------------------------------------------------------------------------------------------------------------------

PEER = "12D3KooW" + "a" * 44


def test_lists_come_from_toml_and_from_text_with_commas():
    assert load('[node]\nlabels = ["zone=eu", "site=attic"]\n').node.labels == ("zone=eu", "site=attic")
    environment = {
        "WEFT_NODE_LABELS": "zone=eu, site=attic",
        "WEFT_MESH_INTERFACES": "eth0,10.0.0.0/8",
        "WEFT_MESH_MDNS": "false",
    }
    config = load(environment=environment, mesh__control_advertise="/dns4/me.example.org/tcp/1")
    assert config.node.labels == ("zone=eu", "site=attic")
    assert config.mesh.interfaces == ("eth0", "10.0.0.0/8")
    assert config.mesh.mdns is False
    assert config.mesh.control_advertise == ("/dns4/me.example.org/tcp/1",)
    assert load(environment={"WEFT_NODE_LABELS": ""}).node.labels == ()


def test_bootstrap_takes_addresses_of_peers_and_dnsaddr_names():
    entries = f'["/dns4/a.example.org/tcp/4747/p2p/{PEER}", "/dnsaddr/b.example.org"]'
    assert len(load(f"[mesh]\nbootstrap = {entries}\n").mesh.bootstrap) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[node]\nlabels = ["zone"]\n', "expected is a list of labels such as"),
        ('[node]\nlabels = "zone=eu"\n', "expected is a list of labels such as"),
        ('[mesh]\ncontrol_advertise = ["me.example.org:1"]\n', "mesh.control_advertise in"),
        ('[mesh]\ndata_advertise = ["/ip4/0.0.0.0/tcp/1"]\n', "is no address of one host"),
        ('[mesh]\nbootstrap = ["/ip4/192.0.2.1/tcp/4747"]\n', "names no peer"),
    ],
)
def test_a_wrong_entry_of_a_list_is_told_in_one_line(text, said):
    with pytest.raises(UserError, match=r"\. Change it and start again\.$") as caught:
        load(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
