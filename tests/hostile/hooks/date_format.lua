-- expect: the format may have 200 bytes
os.date(("%c"):rep(1e6))
