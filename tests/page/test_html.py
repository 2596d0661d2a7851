"""One HTML file that shows an explorer without a kernel."""

import json
import re

import pytest

from cka_notebook._page.html import page


def test_no_text_in_a_page_becomes_a_tag():
    hostile = "</script><!--<script>alert(1)</script>"
    made = page(
        {"name": hostile, "data": b"\x00\xff", "none": None},
        title=f"{hostile}&",
        theme="light",
        module="export default {};",
        style="/* </style><b> */",
        bokehjs=b"gz",
        version="3.9.2",
    )
    assert len(re.findall("<script", made)) == 4
    assert len(re.findall("</style>", made)) == 1
    assert "<!--<" not in made
    state = re.search(r'id="state">(.*?)</script>', made).group(1)
    values = json.loads(state)
    assert values["name"] == hostile
    assert values["data"] == {"base64,": "AP8="}
    assert values["_runtime"] == "IPY_MODEL_bokehjs"


def test_a_number_that_json_does_not_have_is_an_error():
    texts = dict.fromkeys(("title", "theme", "module", "style", "version"), "")
    with pytest.raises(ValueError, match="JSON compliant"):
        page({"value": float("nan")}, **texts, bokehjs=b"")
