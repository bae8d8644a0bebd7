/* Every wrong argument of the C interface is its error code, and nothing crashes. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gmi_daemon.h"

static int wrong;

static void expect(const char *what, GMI_RESULT found, GMI_RESULT expected) {
    if (found != expected) {
        fprintf(stderr, "%s: %d (%s), expected %d\n", what, found, GMI_StrError(found), expected);
        wrong = 1;
    }
}

static void *report_often(void *cfg) {
    for (int i = 0; i < 10; i++)
        GMI_DaemonReport(cfg);
    return NULL;
}

int main(void) {
    DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;

    expect("null init", GMI_DaemonInit(NULL, 1, 0, 0), GMI_E_ARG);
    expect("null register", GMI_DaemonRegister(NULL), GMI_E_ARG);
    expect("null report", GMI_DaemonReport(NULL), GMI_E_ARG);
    expect("null progress", GMI_DaemonReportProgress(NULL, 1), GMI_E_ARG);
    expect("null service", GMI_DaemonService(NULL), GMI_E_ARG);
    expect("null timeout", GMI_DaemonNextTimeout(NULL), GMI_E_ARG);
    GMI_DaemonUnInit(NULL);

    expect("register before init", GMI_DaemonRegister(&cfg), GMI_E_STATE);
    expect("report before init", GMI_DaemonReport(&cfg), GMI_E_STATE);
    GMI_DaemonUnInit(&cfg);

    cfg.size = 3;
    expect("an unknown size", GMI_DaemonInit(&cfg, 1, 0, 0), GMI_E_ARG);
    cfg.size = sizeof cfg;
    expect("a negative port", GMI_DaemonInit(&cfg, 1, -1, 0), GMI_E_ARG);
    expect("a port too high", GMI_DaemonInit(&cfg, 1, 0, 65536), GMI_E_ARG);
    cfg.server = "not an address";
    expect("no address", GMI_DaemonInit(&cfg, 1, 0, 0), GMI_E_ARG);
    char longer[300];
    memset(longer, '1', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    cfg.server = longer;
    expect("a long address", GMI_DaemonInit(&cfg, 1, 0, 0), GMI_E_ARG);
    cfg.server = NULL;

    /* Port 1 of loopback: nobody listens there. */
    cfg.timeout_ms = 200;
    cfg.block_ms = 50;
    GMI_RESULT handle = GMI_DaemonInit(&cfg, 1, 1, 0);
    expect("init", handle >= 0 && cfg.fd == handle, 1);
    expect("report before register", GMI_DaemonReport(&cfg), GMI_E_STATE);
    expect("register with nobody", GMI_DaemonRegister(&cfg), GMI_E_TIMEOUT);
    expect("report with nobody", GMI_DaemonReport(&cfg), 1);
    expect("service", GMI_DaemonService(&cfg), 0);
    GMI_RESULT next = GMI_DaemonNextTimeout(&cfg);
    expect("next timeout", next >= 0 && next < 60000, 1);

    DAEMON_DATA_CFG made_up = cfg;
    made_up.priv = (void *)(uintptr_t)0xdead;
    expect("a made-up handle", GMI_DaemonReport(&made_up), GMI_E_CLOSED);

    pid_t child = fork();
    if (child == 0) {
        expect("report in a child", GMI_DaemonReport(&cfg), GMI_E_FORKED);
        DAEMON_DATA_CFG own = GMI_DAEMON_DATA_CFG_INIT;
        own.timeout_ms = 100;
        expect("init in a child", GMI_DaemonInit(&own, 2, 1, 0) >= 0, 1);
        expect("register in a child", GMI_DaemonRegister(&own), GMI_E_TIMEOUT);
        GMI_DaemonUnInit(&own);
        GMI_DaemonUnInit(&cfg);
        _exit(wrong);
    }
    int status;
    expect("wait", waitpid(child, &status, 0) == child && status == 0, 1);
    expect("the parent's handle after the child", GMI_DaemonReport(&cfg), 1);

    cfg.block_ms = 1;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, report_often, &cfg);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);

    DAEMON_DATA_CFG closed = cfg;
    GMI_DaemonUnInit(&cfg);
    expect("after uninit", GMI_DaemonReport(&cfg), GMI_E_STATE);
    expect("a closed handle", GMI_DaemonReport(&closed), GMI_E_CLOSED);

    DAEMON_DATA_CFG many[65];
    GMI_RESULT last = 0;
    for (int i = 0; i < 65; i++) {
        DAEMON_DATA_CFG fresh = GMI_DAEMON_DATA_CFG_INIT;
        many[i] = fresh;
        last = GMI_DaemonInit(&many[i], 1, 1, 0);
    }
    expect("one handle too many", last, GMI_E_LIMIT);
    return wrong;
}
