"""Names of classes and files that would do harm where they are not taken as text."""

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' $x^2$ --> ]]>",
    "x" * 500,
    "new\nline and \u202eright to left\u200f",
)
FILE = "<img src=x onerror=alert(1)> \u202e & \n.png"
