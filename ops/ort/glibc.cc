// SPDX-License-Identifier: MIT
// libstdc++'s archive asks the C library whether the process has one thread only, which glibc knows
// from 2.32 on. The answer no is always right, and with it the library loads where glibc is older.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
