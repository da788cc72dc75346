/* Reads images from open files into memory, and compares each with the CRC-32C that follows it.

One call reads many images and releases the GIL once. Threads that release and take it once an image would
wait for it as long as they work. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <sys/uio.h>

#ifndef __x86_64__
#error "this needs the CRC-32C instruction of x86-64; without it reading.py reads in Python"
#endif
#include <nmmintrin.h>

#define SSE42  __attribute__((target("sse4.2")))
#define STREAM 4096 /* bytes of each of three interleaved streams, which hide the latency */

/* Reasons of a failure besides errno's, which are positive. */
enum { ENDS_WITHIN = 0, DIFFERS = -1, SOUND = -2 };

/* By byte of a CRC: the CRC after STREAM further bytes of zeros. The four bytes' entries are XORed. */
static uint32_t after_zeros[4][256];

static uint64_t load64(const uint8_t *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

SSE42 static uint32_t one_stream(uint32_t crc, const uint8_t *data, size_t bytes)
{
    uint64_t wide = crc;
    for (; bytes >= sizeof wide; bytes -= sizeof wide, data += sizeof wide)
        wide = _mm_crc32_u64(wide, load64(data));
    crc = (uint32_t)wide;
    for (; bytes; bytes--) crc = _mm_crc32_u8(crc, *data++);
    return crc;
}

static uint32_t append_zeros(uint32_t crc)
{
    return after_zeros[0][crc & 255] ^ after_zeros[1][crc >> 8 & 255] ^ after_zeros[2][crc >> 16 & 255] ^
           after_zeros[3][crc >> 24];
}

/* A CRC is linear: that of two parts is the first part's, with zeros appended, XOR the second part's. */
SSE42 static uint32_t crc32c(const uint8_t *data, size_t bytes)
{
    uint32_t crc = ~0u;
    for (; bytes >= 3 * STREAM; bytes -= 3 * STREAM, data += 3 * STREAM) {
        uint64_t a = crc, b = 0, c = 0;
        for (size_t i = 0; i < STREAM; i += 8) {
            a = _mm_crc32_u64(a, load64(data + i));
            b = _mm_crc32_u64(b, load64(data + STREAM + i));
            c = _mm_crc32_u64(c, load64(data + 2 * STREAM + i));
        }
        crc = append_zeros(append_zeros((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
    }
    return ~one_stream(crc, data, bytes);
}

static void make_after_zeros(void)
{
    static const uint8_t zeros[STREAM];
    for (int byte = 0; byte < 4; byte++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t one = one_stream(1u << (8 * byte + bit), zeros, STREAM);
            for (int rest = 0; rest < 1 << bit; rest++)
                after_zeros[byte][1 << bit | rest] = after_zeros[byte][rest] ^ one;
        }
}

/* Read one image and its checksum; return a reason, or SOUND. */
static int read_one(int descriptor, int64_t offset, uint8_t *image, size_t bytes)
{
    uint8_t stored[4];
    struct iovec parts[] = {{image, bytes}, {stored, sizeof stored}};
    ssize_t found;
    do found = preadv(descriptor, parts, 2, offset);
    while (found < 0 && errno == EINTR);
    if (found < 0) return errno;
    if ((size_t)found != bytes + sizeof stored) return ENDS_WITHIN;
    uint32_t expected = stored[0] | stored[1] << 8 | stored[2] << 16 | (uint32_t)stored[3] << 24;
    return crc32c(image, bytes) == expected ? SOUND : DIFFERS;
}

static PyObject *images(PyObject *module, PyObject *arguments)
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
    if (!fit) return PyErr_Format(PyExc_ValueError, "as many descriptors as offsets and images are needed");
    if (reason == SOUND) Py_RETURN_NONE;
    return Py_BuildValue("ni", done - 1, reason);
}

static const char images_doc[] =
    "images(descriptors, offsets, out)\n--\n\n"
    "Read one image for each descriptor and offset, int64 [n], into `out`, and compare its checksum.\n\n"
    "Returns None, or the place of the first failure and its reason: an errno; 0, the file ends within the\n"
    "image; -1, it does not match its checksum.";

static PyMethodDef methods[] = {{"images", images, METH_VARARGS, images_doc}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_read", NULL, 0, methods};

PyMODINIT_FUNC PyInit__read(void)
{
    if (!__builtin_cpu_supports("sse4.2")) return PyErr_Format(PyExc_ImportError, "no CRC-32C instruction");
    make_after_zeros();
    return PyModule_Create(&module);
}
