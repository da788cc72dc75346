/* Ctrl-C at any moment. Python runs its own handler between two instructions, so never inside MPI_Init
(mpi4py holds the interpreter's lock there), in a blocking exchange, or while a library is loaded. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { STDERR = 2, CODE = 128 + SIGINT, ROOT_FIRST_MS = 100 };

/* What MPI_Abort(MPI_COMM_WORLD, 130) tells the launcher, in the text of PMI 1; the launcher reads it before
MPI_Init too. Without it mpirun ends with the code of a rank that it killed because another had ended. */
static const char abort_all[] = "cmd=abort exitcode=130\n";

static char message[256];
static volatile sig_atomic_t length, launcher = -1;

/* Calls only what POSIX allows in a handler. Never waits for a terminal that was stopped, or a full pipe. */
static void end(int number)
{
    struct pollfd errors = {.fd = STDERR, .events = POLLOUT};
    ssize_t written = 0;
    (void)number;
    if (!length)
        poll(NULL, 0, ROOT_FIRST_MS); /* or the launcher ends rank 0 before it has written */
    else if (poll(&errors, 1, 0) == 1 && errors.revents == POLLOUT) {
        if (isatty(STDERR)) written = write(STDERR, "\n", 1); /* the terminal shows ^C, or a bar, there */
        written = write(STDERR, message, (size_t)length);
    }
    if (launcher >= 0) written = write(launcher, abort_all, sizeof abort_all - 1);
    (void)written;
    _exit(CODE);
}

static PyObject *end_on_sigint(PyObject *self, PyObject *args)
{
    const char *text;
    Py_ssize_t size;
    int pmi;
    struct sigaction action = {.sa_handler = end};
    (void)self;
    if (!PyArg_ParseTuple(args, "y#i", &text, &size, &pmi)) return NULL;
    if (size > (Py_ssize_t)sizeof message) return PyErr_Format(PyExc_ValueError, "over %zu", sizeof message);
    length = 0;
    memcpy(message, text, (size_t)size);
    length = (sig_atomic_t)size;
    launcher = pmi;
    sigfillset(&action.sa_mask);
    if (sigaction(SIGINT, &action, NULL)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"end_on_sigint", end_on_sigint, METH_VARARGS,
     "end_on_sigint(message, launcher)\n--\n\n"
     "From now on SIGINT writes the message to stderr and ends the process at once with exit code 130.\n\n"
     "message: bytes, at most 256; launcher: the descriptor of PMI 1, or -1."},
    {0},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_interrupt", NULL, 0, methods};

PyMODINIT_FUNC PyInit__interrupt(void) { return PyModule_Create(&module); }
