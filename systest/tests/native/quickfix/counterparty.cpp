// A back office on QuickFIX, an independent FIX engine: logs on to the drop copy, prints a line for every
// Execution Report, logs out on SIGTERM. Sequence numbers and messages stay in its directory.
//     counterparty PORT DIRECTORY RESET(Y|N)

#include <quickfix/Application.h>
#include <quickfix/FileStore.h>
#include <quickfix/FileLog.h>
#include <quickfix/MessageCracker.h>
#include <quickfix/Session.h>
#include <quickfix/SocketInitiator.h>
#include <quickfix/fix44/ExecutionReport.h>
#include <csignal>
#include <iostream>
#include <sstream>
#include <unistd.h>

class BackOffice : public FIX::Application, public FIX::MessageCracker {
public:
    void onCreate(const FIX::SessionID&) override {}
    void onLogon(const FIX::SessionID&) override { std::cout << "LOGON" << std::endl; }
    void onLogout(const FIX::SessionID&) override { std::cout << "LOGOUT" << std::endl; }
    void toAdmin(FIX::Message&, const FIX::SessionID&) override {}
    void toApp(FIX::Message&, const FIX::SessionID&) throw(FIX::DoNotSend) override {}
    void fromAdmin(const FIX::Message& message, const FIX::SessionID&)
        throw(FIX::FieldNotFound, FIX::IncorrectDataFormat, FIX::IncorrectTagValue, FIX::RejectLogon) override {
        FIX::MsgType type;
        message.getHeader().getField(type);
        // A session-level reject is a fault of one of the two.
        if (type == FIX::MsgType_Reject) std::cout << "REJECT " << message << std::endl;
    }
    void fromApp(const FIX::Message& message, const FIX::SessionID& session)
        throw(FIX::FieldNotFound, FIX::IncorrectDataFormat, FIX::IncorrectTagValue, FIX::UnsupportedMessageType) override {
        crack(message, session);
    }
    // Every field that FIX 4.4 requires, by its type: one that is missing is an exception, and a reject.
    void onMessage(const FIX44::ExecutionReport& report, const FIX::SessionID&) override {
        FIX::OrderID order; FIX::ExecID exec; FIX::ExecType type; FIX::OrdStatus status; FIX::Symbol symbol;
        FIX::Side side; FIX::LeavesQty leaves; FIX::CumQty cum; FIX::AvgPx average; FIX::ClOrdID client;
        FIX::OrderQty quantity; FIX::Price price; FIX::TransactTime time;
        report.get(order); report.get(exec); report.get(type); report.get(status); report.get(symbol);
        report.get(side); report.get(leaves); report.get(cum); report.get(average); report.get(client);
        report.get(quantity); report.get(price); report.get(time);
        FIX::LastQty last(0);
        if (type == FIX::ExecType_TRADE) report.get(last);
        FIX::PossResend resend(false);
        if (report.getHeader().isSetField(resend)) report.getHeader().getField(resend);
        std::cout << "EXEC " << exec.getValue() << ' ' << type.getValue() << ' ' << status.getValue() << ' '
                  << side.getValue() << ' ' << last.getValue() << ' ' << cum.getValue() << ' '
                  << leaves.getValue() << ' ' << (resend ? 'Y' : 'N') << std::endl;
    }
};

int main(int, char** arguments) {
    std::ostringstream text;
    text << "[DEFAULT]\nConnectionType=initiator\nStartTime=00:00:00\nEndTime=00:00:00\nHeartBtInt=5\n"
         << "ReconnectInterval=1\nUseDataDictionary=N\nFileStorePath=" << arguments[2] << "/store\n"
         << "FileLogPath=" << arguments[2] << "/log\nResetOnLogon=" << arguments[3] << "\n"
         << "[SESSION]\nBeginString=FIX.4.4\nSenderCompID=BACKOFFICE\nTargetCompID=QUIETCORE\n"
         << "SocketConnectHost=127.0.0.1\nSocketConnectPort=" << arguments[1] << "\n";
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigprocmask(SIG_BLOCK, &ending, nullptr);
    std::istringstream stream(text.str());
    FIX::SessionSettings settings(stream);
    BackOffice application;
    FIX::FileStoreFactory store(settings);
    FIX::FileLogFactory log(settings);
    FIX::SocketInitiator initiator(application, store, settings, log);
    initiator.start();
    int signal = 0;
    sigwait(&ending, &signal);
    initiator.stop();
    return 0;
}
