#!/usr/bin/env python3
"""Compile the parasite to a flat binary and write it as a C array: embed.py CC OBJCOPY SRCROOT OUT [ELF].

ELF is for a debugger: where to leave the linked file with its symbols."""
import os
import subprocess
import sys
import tempfile

cc, objcopy, root, out = sys.argv[1:5]
arch = os.path.join(root, "injector/blob/arch/x86_64/entry.S")
flags = ["-Os", "-g", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-mgeneral-regs-only",
         "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-builtin", "-nostdlib", "-Wall",
         "-Wextra", "-Werror", "-fno-tree-loop-distribute-patterns", "-I", root]
with tempfile.TemporaryDirectory() as tmp:
    elf, flat = [*sys.argv[5:6], os.path.join(tmp, "blob.elf")][0], os.path.join(tmp, "blob.bin")
    subprocess.run([cc, *flags, "-static", "-Wl,--build-id=none", "-Wl,-T," + os.path.join(root, "injector/blob/blob.lds"),
                    "-o", elf, arch, os.path.join(root, "injector/blob/blob.c")], check=True)
    subprocess.run([objcopy, "-O", "binary", elf, flat], check=True)
    data = open(flat, "rb").read()
    symbols = subprocess.run(["nm", elf], check=True, capture_output=True, text=True).stdout
    address = {line.split()[2]: int(line.split()[0], 16) for line in symbols.splitlines()}
with open(out, "w") as f:
    f.write("/* Generated from injector/blob. */\n#include \"injector/blob_code.h\"\n")
    f.write("const unsigned char blob_code[] = {%s};\n" % ",".join(str(b) for b in data))
    f.write("const unsigned int blob_code_size = %d;\n" % len(data))
    f.write("const unsigned int blob_guard_at = %d;\n" % address["blob_guard"])
    f.write("const unsigned int blob_guard_size = %d;\n" % (address["blob_guard_end"] - address["blob_guard"]))
