/* Pictures out of open files into memory, each compared with the CRC-32C behind it.

One call reads many pictures and takes Python's lock once: threads that hand it to each other twice a picture
wait for it as long as they work. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <sys/uio.h>

#ifndef __x86_64__
#error "only written for the CRC-32C instruction of x86-64; reading.py reads one picture after the other"
#endif
#include <nmmintrin.h>

#define SSE42  __attribute__((target("sse4.2")))
#define STREAM 4096 /* bytes of each of three streams: one instruction has to wait for the one before */

/* Reasons beside errno's, which are positive. */
enum { ENDS_WITHIN = 0, DIFFERS = -1, SOUND = -2 };

/* What a remainder becomes when STREAM bytes of zeros follow it, the sum over its four bytes. */
static uint32_t followed[4][256];

static uint64_t eight(const uint8_t *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

SSE42 static uint32_t one_stream(uint32_t crc, const uint8_t *data, size_t bytes)
{
    uint64_t wide = crc;
    for (; bytes >= sizeof wide; bytes -= sizeof wide, data += sizeof wide)
        wide = _mm_crc32_u64(wide, eight(data));
    crc = (uint32_t)wide;
    for (; bytes; bytes--) crc = _mm_crc32_u8(crc, *data++);
    return crc;
}

static uint32_t by_zeros(uint32_t crc)
{
    return followed[0][crc & 255] ^ followed[1][crc >> 8 & 255] ^ followed[2][crc >> 16 & 255] ^
           followed[3][crc >> 24];
}

/* A remainder is linear: of two parts it is that of the first, zeros behind it, plus that of the second. */
SSE42 static uint32_t crc32c(const uint8_t *data, size_t bytes)
{
    uint32_t crc = ~0u;
    for (; bytes >= 3 * STREAM; bytes -= 3 * STREAM, data += 3 * STREAM) {
        uint64_t a = crc, b = 0, c = 0;
        for (size_t i = 0; i < STREAM; i += 8) {
            a = _mm_crc32_u64(a, eight(data + i));
            b = _mm_crc32_u64(b, eight(data + STREAM + i));
            c = _mm_crc32_u64(c, eight(data + 2 * STREAM + i));
        }
        crc = by_zeros(by_zeros((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
    }
    return ~one_stream(crc, data, bytes);
}

static void make_followed(void)
{
    static const uint8_t zeros[STREAM];
    for (int byte = 0; byte < 4; byte++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t one = one_stream(1u << (8 * byte + bit), zeros, STREAM);
            for (int rest = 0; rest < 1 << bit; rest++)
                followed[byte][1 << bit | rest] = followed[byte][rest] ^ one;
        }
}

/* Read one picture and the checksum behind it; returns a reason, or SOUND. */
static int read_one(int descriptor, int64_t offset, uint8_t *picture, size_t bytes)
{
    uint8_t stored[4];
    struct iovec parts[] = {{picture, bytes}, {stored, sizeof stored}};
    ssize_t found;
    do found = preadv(descriptor, parts, 2, offset);
    while (found < 0 && errno == EINTR);
    if (found < 0) return errno;
    if ((size_t)found != bytes + sizeof stored) return ENDS_WITHIN;
    uint32_t expected = stored[0] | stored[1] << 8 | stored[2] << 16 | (uint32_t)stored[3] << 24;
    return crc32c(picture, bytes) == expected ? SOUND : DIFFERS;
}

static PyObject *pictures(PyObject *module, PyObject *arguments)
{
    Py_buffer descriptors, offsets, out;
    if (!PyArg_ParseTuple(arguments, "y*y*w*", &descriptors, &offsets, &out)) return NULL;
    Py_ssize_t count = offsets.len / sizeof(int64_t), done = 0;
    int reason = SOUND, fit = count > 0 && descriptors.len == offsets.len && out.len % count == 0;
    if (fit) {
        const int64_t *descriptor = descriptors.buf, *offset = offsets.buf;
        size_t bytes = out.len / count;
        Py_BEGIN_ALLOW_THREADS
        for (; done < count && reason == SOUND; done++)
            reason = read_one((int)descriptor[done], offset[done], (uint8_t *)out.buf + done * bytes, bytes);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&descriptors), PyBuffer_Release(&offsets), PyBuffer_Release(&out);
    if (!fit) return PyErr_Format(PyExc_ValueError, "as many descriptors as offsets and pictures are needed");
    if (reason == SOUND) Py_RETURN_NONE;
    return Py_BuildValue("ni", done - 1, reason);
}

static const char pictures_says[] =
    "pictures(descriptors, offsets, out)\n--\n\n"
    "Read as many pictures, int64 [n] each, into memory that they fill, and verify each.\n\n"
    "Returns None, or the place of the first that failed and why: an errno; 0, the file ends within it;\n"
    "-1, it does not match its checksum.";

static PyMethodDef methods[] = {{"pictures", pictures, METH_VARARGS, pictures_says}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_read", NULL, 0, methods};

PyMODINIT_FUNC PyInit__read(void)
{
    if (!__builtin_cpu_supports("sse4.2")) return PyErr_Format(PyExc_ImportError, "no CRC-32C instruction");
    make_followed();
    return PyModule_Create(&module);
}
