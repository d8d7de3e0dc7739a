"""Runs the measurements that fit an ordinary machine, one after the other: `make bench`.

bench/full_size.py is not among them: it needs 20 GB of memory and is started by hand.
"""

from bench import compression_speed, convert_memory, decode_speed

if __name__ == "__main__":
    decode_speed.main()
    convert_memory.main()
    compression_speed.main([])
