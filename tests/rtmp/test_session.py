"""rtmp_twisted.rtmp.session and stream: what is asked and answered, message by message."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.live.broker import LISTEN_SECONDS
from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.settings_types import Networks
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.messages import AUDIO, DATA_AMF0, USER_CONTROL, VIDEO, Message
from tests.support.fakes import Log
from tests.support.memory import Client, World, answer, codes, media
from tests.support.rtmp_client import AAC_HEADER, AVC_HEADER, METADATA, aac, avc


def plain(message: Message) -> tuple[int, int, bytes]:
    return message.type_id, message.timestamp, message.body


class ConnectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = World().connect()

    def test_answers(self) -> None:
        received = self.client.call("connect", {"app": "channel", "objectEncoding": 3.0}, transaction=1)
        kinds = [message.type_id for message in received]
        # The chunk size was obeyed by the decoder, and is not among the messages.
        self.assertEqual(kinds, [messages.WINDOW_ACKNOWLEDGEMENT_SIZE, messages.SET_PEER_BANDWIDTH, 20])
        self.assertEqual(received[0].body, (5_000_000).to_bytes(4, "big"))
        self.assertEqual(received[1].body, (5_000_000).to_bytes(4, "big") + b"\2")
        result = answer(received, 1)
        self.assertEqual(result.name, "_result")
        properties, info = result.arguments
        assert isinstance(properties, dict) and isinstance(info, dict)
        self.assertEqual(properties.keys(), {"fmsVer", "capabilities"})
        self.assertEqual(info["level"], "status")
        self.assertEqual(info["code"], "NetConnection.Connect.Success")
        self.assertEqual(info["objectEncoding"], 3)
        self.assertNotIn("fourCcList", info)

    def test_answers_leave_in_one_write(self) -> None:
        before = len(self.client.transport.writes)
        self.client.call("connect", {"app": "channel"}, transaction=1)
        self.assertEqual(len(self.client.transport.writes) - before, 1)

    def test_enhanced(self) -> None:
        for wish in "fourCcList", "videoFourCcInfoMap", "capsEx":
            client = World().connect()
            info = answer(client.call("connect", {"app": "channel", wish: 1.0}), 5).arguments[1]
            assert isinstance(info, dict) and isinstance(info["fourCcList"], list)
            self.assertIn("hvc1", info["fourCcList"])
            self.assertEqual(info["videoFourCcInfoMap"], {"*": 4})
            self.assertEqual(info["capsEx"], 1 + 2 + 4 + 8)

    def test_app_with_slash_and_query(self) -> None:
        for app in "channel/", "channel?a=b", "channel/?a=b":
            client = World().connect()
            client.call("connect", {"app": app}, transaction=1)
            self.assertEqual(codes(client.received), ["NetConnection.Connect.Success"], app)
            self.assertEqual(client.protocol.connection.handler.app.channel, "channel")

    def test_bad_app(self) -> None:
        bad: list[dict[str, amf0.Value]] = [{}, {"app": ""}, {"app": "a b"}, {"app": "a" * 129}, {"app": 1.0}]
        bad += [{"app": "a/b/c"}, {"app": "a/b c"}, {"app": "a%2fb"}, {"app": "kanäle"}, {"app": "a\n"}]
        for wishes in bad:
            client = World().connect()
            refusal = answer(client.call("connect", wishes), 5)
            self.assertEqual(refusal.name, "_error", wishes)
            info = refusal.arguments[1]
            assert isinstance(info, dict)
            self.assertEqual(info["code"], "NetConnection.Connect.Rejected")
            self.assertTrue(client.closing)

    def test_special_characters_where_they_are_allowed(self) -> None:
        client = World(names=NameRules(allow_special=True, allow_empty=True)).connect()
        client.call("connect", {"app": "käse & brot"})
        self.assertEqual(codes(client.received), ["NetConnection.Connect.Success"])
        for name in "a>b", "a|b", "a\nb":
            client = World(names=NameRules(allow_special=True)).connect()
            client.call("connect", {"app": name})
            self.assertEqual(codes(client.received), ["NetConnection.Connect.Rejected"])

    def test_object_encoding(self) -> None:
        given: list[amf0.Value] = [3.0, 0.0, 1.0, 2.5, -1.0, float("nan"), float("inf"), "3", True, None, {}]
        for encoding in given:
            client = World().connect()
            info = answer(client.call("connect", {"app": "channel", "objectEncoding": encoding}), 5).arguments[1]
            assert isinstance(info, dict)
            self.assertEqual(info["objectEncoding"], 3 if encoding == 3.0 else 0, encoding)

    def test_twice(self) -> None:
        self.client.open().call("connect", {"app": "channel"})
        self.assertTrue(self.client.transport.aborted)

    def test_commands_before_connect(self) -> None:
        for name in "createStream", "releaseStream", "deleteStream", "nonsense":
            client = World().connect()
            self.assertEqual(client.call(name, None, "key"), [])
            self.assertTrue(client.transport.aborted, name)
        for name, code in ("publish", "NetStream.Publish.BadConnection"), ("play", "NetStream.Play.BadConnection"):
            client = World().connect()
            self.assertEqual(codes(client.call(name, None, "key", stream_id=1)), [code])
            self.assertTrue(client.closing)

    def test_stream_ids_count_from_one(self) -> None:
        self.client.call("connect", {"app": "channel"})
        for expected in 1, 2, 3:
            self.assertEqual(answer(self.client.call("createStream", None)).arguments, [None, expected])

    def test_too_many_streams(self) -> None:
        self.client.call("connect", {"app": "channel"})
        for _ in range(33):
            self.client.call("createStream", None)
        self.assertTrue(self.client.transport.aborted)

    def test_what_well_known_clients_ask(self) -> None:
        self.client.open()
        for name in "releaseStream", "FCPublish", "FCUnpublish", "FCSubscribe", "getStreamLength", "_checkbw":
            received = self.client.call(name, None, "key")
            self.assertEqual(answer(received).name, "_result", name)
        for name in "onFCPublish", "onFCUnpublish", "onFCSubscribe":
            names = [messages.parse_command(m).name for m in self.client.received if m.type_id == 20]
            self.assertIn(name, names)

    def test_unknown_commands(self) -> None:
        self.client.open()
        self.assertEqual(answer(self.client.call("nonsense", None)).name, "_error")
        self.assertEqual(self.client.call("nonsense", None, transaction=0), [])
        self.assertEqual(self.client.call("_result", None), [])
        self.assertFalse(self.client.transport.aborted)

    def test_amf3_commands(self) -> None:
        body = b"\0" + messages.command("createStream", 5, None).body
        self.client.open()
        self.client.send(Message(messages.COMMAND_AMF3, 0, 0, body))
        self.assertEqual(answer(self.client.new()).arguments, [None, 2])

    def test_too_many_commands(self) -> None:
        world = World()
        client = world.connect().open()
        for _ in range(98):
            client.call("_checkbw", None)
        self.assertFalse(client.transport.aborted)
        client.call("_checkbw", None)
        self.assertTrue(client.transport.aborted)
        patient = world.connect().open()
        patient.play()
        for _ in range(150):
            patient.call("_checkbw", None)
            world.pass_time(1)
            patient.send(Message(messages.ACKNOWLEDGEMENT, 0, 0, bytes(4)))
        self.assertFalse(patient.transport.aborted)

    def test_ping_from_the_client(self) -> None:
        self.client.open()
        self.client.send(messages.user_control(messages.PING_REQUEST, 1234))
        self.assertEqual(self.client.new(), [messages.user_control(messages.PING_RESPONSE, 1234)])


class PublishTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_start_and_end(self) -> None:
        client = self.world.connect().open()
        self.assertEqual(codes(client.publish()), ["NetStream.Publish.Start"])
        self.assertEqual(self.world.authority.events, [("start", "channel", "key", "192.0.2.1")])
        self.assertEqual(codes(client.call("deleteStream", None, 1.0)), ["NetStream.Unpublish.Success"])
        self.assertEqual(self.world.authority.events[1:], [("end", "channel", "key", "id of key", "192.0.2.1")])
        client.leave()
        self.assertEqual(len(self.world.authority.events), 2)

    def test_every_end_is_told_once(self) -> None:
        def kill(client: Client) -> None:
            self.world.broker.kill("channel", None, "killed")

        ends = {
            "closeStream": lambda client: client.call("closeStream", None, stream_id=1),
            "deleteStream": lambda client: client.call("deleteStream", None, 1.0),
            "lost": lambda client: client.leave(),
            "killed": kill,
            "garbage": lambda client: client.feed(b"\xff" * 100),
            "silence": lambda client: self.world.pass_time(61),
        }
        for name, end in ends.items():
            self.world = World()
            client = self.world.connect().open()
            client.publish()
            end(client)
            if name != "lost":
                client.leave()
            self.assertEqual([event[0] for event in self.world.authority.events], ["start", "end"], name)

    def test_refused(self) -> None:
        self.world = World(ask=True)
        client = self.world.connect().open()
        self.assertEqual(client.publish(), [])
        self.world.authority.refuse()
        self.assertEqual(codes(client.new()), ["NetStream.Publish.BadName"])
        self.assertTrue(client.closing)
        self.assertEqual([event[0] for event in self.world.authority.events], ["start"])

    def test_left_before_the_answer(self) -> None:
        for accept in True, False:
            self.world = World(ask=True)
            client = self.world.connect().open()
            client.publish()
            client.leave()
            if accept:
                self.world.authority.accept()
            else:
                self.world.authority.refuse()
            expected = ["start", "end"] if accept else ["start"]
            self.assertEqual([event[0] for event in self.world.authority.events], expected)
            self.assertEqual(self.world.broker.channels(), [])

    def test_bad_keys(self) -> None:
        for key in "", "a b", "a" * 129, "?x=y", None, 5.0:
            client = self.world.connect().open()
            self.assertEqual(codes(client.call("publish", None, key, stream_id=1)), ["NetStream.Publish.BadName"])
            self.assertTrue(client.closing)
            client.leave()

    def test_key_ends_at_the_question_mark(self) -> None:
        self.world.connect().open().publish("key?what=ever")
        self.assertEqual(self.world.authority.events, [("start", "channel", "key", "192.0.2.1")])

    def test_the_key_in_the_app(self) -> None:
        """As gortmplib and MediaMTX send it."""
        publisher = self.world.connect().open("channel/key")
        self.assertEqual(codes(publisher.publish("")), ["NetStream.Publish.Start"])
        self.assertEqual(self.world.authority.events, [("start", "channel", "key", "192.0.2.1")])
        publisher.send(AVC_HEADER, avc(0, True), avc(33, False))
        for app, name, frames in ("channel/key", "", 2), ("channel", "key", 2), ("channel/key?cache=no", "", 0):
            player = self.world.connect().open(app)
            self.assertEqual(len(media(player.play(name))), 1 + frames, (app, name))
        self.assertEqual(len(self.world.broker.channels()), 1)
        for app, name in ("channel/wrong", ""), ("channel/key", "key"):
            player = self.world.connect().open(app)
            self.assertEqual(codes(player.play(name)), ["NetStream.Play.BadName"])
            self.assertTrue(player.closing)

    def test_a_second_publish_on_the_connection(self) -> None:
        client = self.world.connect().open()
        client.publish()
        self.assertEqual(codes(client.publish("other", stream_id=2)), ["NetStream.Publish.BadConnection"])
        self.assertFalse(client.closing)

    def test_another_publisher(self) -> None:
        self.world.connect().open().publish()
        other = self.world.connect().open()
        self.assertEqual(codes(other.publish("another")), ["NetStream.Publish.BadName"])
        self.assertTrue(other.closing)

    def test_takes_over_from_a_silent_one(self) -> None:
        first = self.world.connect().open()
        first.publish()
        player = self.world.connect().open()
        player.play()
        self.world.clock.advance(1)
        second = self.world.connect("198.51.100.7").open()
        self.assertEqual(second.publish(), [])
        self.world.pass_time(2)
        self.assertEqual(codes(second.new()), ["NetStream.Publish.Start"])
        self.assertTrue(first.closing)
        self.assertEqual([event[0] for event in self.world.authority.events], ["start", "end", "start"])
        second.send(AVC_HEADER, avc(0, True))
        self.assertEqual([plain(m) for m in media(player.new())], [plain(AVC_HEADER), plain(avc(0, True))])

    def test_does_not_take_over_from_a_live_one(self) -> None:
        first = self.world.connect().open()
        first.publish()
        second = self.world.connect().open()
        self.assertEqual(second.publish(), [])
        first.send(aac(0))
        self.world.clock.advance(LISTEN_SECONDS)
        self.assertEqual(codes(second.new()), ["NetStream.Publish.BadName"])
        self.assertTrue(second.closing)
        self.assertFalse(first.closing)

    def test_media_sent_before_the_answer_is_not_lost(self) -> None:
        self.world = World(ask=True)
        player = self.world.connect().open()
        player.play()
        player.new()
        client = self.world.connect().open()
        client.publish()
        client.send(AVC_HEADER, avc(0, True), aac(1))
        self.assertEqual(media(player.new()), [])
        self.world.authority.accept()
        self.assertEqual(
            [plain(m) for m in media(player.new())], [plain(AVC_HEADER), plain(avc(0, True)), plain(aac(1))]
        )

    def test_an_eager_client_has_to_wait(self) -> None:
        self.world = World(ask=True)
        client = self.world.connect().open()
        client.publish()
        client.send(messages.set_chunk_size(65536))
        client.chunk_size = 65536
        client.send(avc(0, True, bytes(600_000)))
        self.assertEqual(client.transport.producerState, "producing")
        client.send(avc(0, True, bytes(600_000)))
        self.assertEqual(client.transport.producerState, "paused")
        self.world.authority.accept()
        self.assertEqual(client.transport.producerState, "producing")

    def test_killed(self) -> None:
        client = self.world.connect().open()
        client.publish()
        self.assertFalse(self.world.broker.kill("channel", "other", "killed"))
        self.assertTrue(self.world.broker.kill("channel", "id of key", "killed"))
        self.assertEqual(codes(client.new()), ["NetStream.Unpublish.Success"])
        self.assertTrue(client.closing)


class PlayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def publisher(self) -> Client:
        client = self.world.connect().open()
        client.publish()
        client.send(METADATA, AVC_HEADER, AAC_HEADER, avc(0, True), aac(5), avc(33, False))
        return client

    def test_what_a_joining_player_gets(self) -> None:
        self.publisher()
        received = self.world.connect().open().play()
        self.assertEqual(received[0], messages.user_control(messages.STREAM_BEGIN, 1))
        self.assertEqual(codes(received), ["NetStream.Play.Reset", "NetStream.Play.Start"])
        data = [amf0.decode(m.body)[0] for m in received if m.type_id == DATA_AMF0]
        self.assertEqual(data, ["|RtmpSampleAccess", "onMetaData"])
        expected = [AVC_HEADER, AAC_HEADER, avc(0, True), aac(5), avc(33, False)]
        self.assertEqual([plain(m) for m in media(received)], [plain(m) for m in expected])
        self.assertEqual({m.stream_id for m in media(received)}, {1})

    def test_answers_leave_in_one_write(self) -> None:
        client = self.world.connect().open()
        before = len(client.transport.writes)
        client.play()
        self.assertEqual(len(client.transport.writes) - before, 1)

    def test_waiting_player(self) -> None:
        player = self.world.connect().open()
        player.play()
        self.publisher()
        received = player.new()
        self.assertEqual(codes(received), ["NetStream.Play.PublishNotify"])
        expected = [AVC_HEADER, AAC_HEADER, avc(0, True), aac(5), avc(33, False)]
        self.assertEqual([plain(m) for m in media(received)], [plain(m) for m in expected])

    def test_publisher_leaves_and_comes_back(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        publisher.call("deleteStream", None, 1.0)
        received = player.new()
        self.assertEqual(codes(received), ["NetStream.Play.UnpublishNotify"])
        self.assertEqual(received[-1].body, messages.user_control(messages.STREAM_EOF, 1).body)
        publisher.call("createStream", None)
        publisher.publish(stream_id=2)
        publisher.send(AVC_HEADER, avc(0, True))
        received = player.new()
        self.assertEqual(received[0].body, messages.user_control(messages.STREAM_BEGIN, 1).body)
        self.assertEqual([plain(m) for m in media(received)], [plain(AVC_HEADER), plain(avc(0, True))])

    def test_wrong_key(self) -> None:
        self.publisher()
        player = self.world.connect().open()
        self.assertEqual(codes(player.play("wrong")), ["NetStream.Play.BadName"])
        self.assertTrue(player.closing)

    def test_waiting_with_the_wrong_key(self) -> None:
        player = self.world.connect().open()
        player.play("wrong")
        self.publisher()
        self.assertEqual(codes(player.new()), ["NetStream.Play.BadName"])
        self.assertTrue(player.closing)

    def test_who_may_play(self) -> None:
        self.world = World(players=Networks.parse("192.0.2.0/24"))
        self.assertIn("NetStream.Play.Start", codes(self.world.connect("192.0.2.9").open().play()))
        stranger = self.world.connect("198.51.100.1").open()
        self.assertEqual(codes(stranger.play()), ["NetStream.Play.BadName"])
        self.assertTrue(stranger.closing)

    def test_bad_keys(self) -> None:
        for key in "", "a b", None:
            player = self.world.connect().open()
            self.assertEqual(codes(player.call("play", None, key, stream_id=1)), ["NetStream.Play.BadName"])
            self.assertTrue(player.closing)

    def test_playing_already(self) -> None:
        player = self.world.connect().open()
        player.play()
        self.assertEqual(codes(player.play()), ["NetStream.Play.BadConnection"])
        self.assertFalse(player.closing)

    def test_pause(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        received = player.call("pause", None, True, 0.0, stream_id=1)
        self.assertEqual(received[0], messages.user_control(messages.STREAM_EOF, 1))
        self.assertEqual(codes(received), ["NetStream.Pause.Notify"])
        publisher.send(avc(66, False), aac(70))
        self.assertEqual(player.new(), [])
        received = player.call("pause", None, False, 0.0, stream_id=1)
        self.assertEqual(received[0], messages.user_control(messages.STREAM_BEGIN, 1))
        self.assertEqual(codes(received), ["NetStream.Unpause.Notify"])
        notify = [m.type_id for m in received].index(20)
        self.assertEqual([m.body for m in media(received[:notify])], [AVC_HEADER.body, AAC_HEADER.body])
        after = [plain(m) for m in media(received[notify:])]
        expected = [avc(0, True), aac(5), avc(33, False), avc(66, False), aac(70)]
        self.assertEqual(after, [plain(m) for m in expected])
        publisher.send(aac(90))
        self.assertEqual([plain(m) for m in media(player.new())], [plain(aac(90))])

    def test_receive_audio_and_video(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        self.assertEqual(player.call("receiveAudio", None, False, stream_id=1), [])
        publisher.send(aac(40), avc(66, False))
        self.assertEqual([m.type_id for m in media(player.new())], [VIDEO])
        player.call("receiveVideo", None, False, stream_id=1)
        player.call("receiveAudio", None, True, stream_id=1)
        player.new()
        publisher.send(aac(80), avc(99, False))
        self.assertEqual([m.type_id for m in media(player.new())], [AUDIO])
        player.call("receiveVideo", None, True, stream_id=1)
        publisher.send(aac(90), avc(120, False))
        self.assertEqual([m.type_id for m in media(player.new())], [AUDIO])
        publisher.send(aac(150), avc(160, True))
        received = [plain(m)[1:] for m in media(player.new()) if plain(m)[2] not in (AVC_HEADER.body, AAC_HEADER.body)]
        self.assertEqual(received, [plain(aac(150))[1:], plain(avc(160, True))[1:]])

    def test_several_streams_on_one_connection(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.call("createStream", None)
        player.play()
        received = player.play(stream_id=2)
        self.assertEqual(received[0], messages.user_control(messages.STREAM_BEGIN, 2))
        self.assertEqual({m.stream_id for m in media(received)}, {2})
        publisher.send(aac(100))
        self.assertEqual([m.stream_id for m in media(player.new())], [1, 2])
        player.call("deleteStream", None, 1.0)
        publisher.send(aac(110))
        self.assertEqual([m.stream_id for m in media(player.new())], [2])

    def test_close_stream(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        self.assertEqual(codes(player.call("closeStream", None, stream_id=1)), ["NetStream.Play.Stop"])
        publisher.send(aac(100))
        self.assertEqual(player.new(), [])
        self.assertIn("NetStream.Play.Start", codes(player.play()))

    def test_data_is_relayed_in_its_place(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        text = messages.data(50, "onTextData", {"text": "hello"}, stream_id=1)
        flash = Message(messages.DATA_AMF3, 1, 60, b"\0" + messages.data(0, "onCuePoint", 1.0).body)
        publisher.send(aac(45), text, aac(55), flash)
        received = player.new()
        self.assertEqual([m.type_id for m in received], [AUDIO, DATA_AMF0, AUDIO, DATA_AMF0])
        self.assertEqual(amf0.decode(received[1].body), ["onTextData", {"text": "hello"}])
        self.assertEqual(amf0.decode(received[3].body), ["onCuePoint", 1.0])

    def test_metadata_in_amf3(self) -> None:
        """Players that know AMF 0 alone, ffmpeg for one, get it in AMF 0: those there are and those that join."""
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        name = amf0.encode("@setDataFrame", "onMetaData")
        publisher.send(Message(messages.DATA_AMF3, 1, 60, b"\0" + name + b"\x11\x0a\x0b\x01\x0bwidth\x04\x81\x00\x01"))
        joining = self.world.connect().open().play()
        for received in player.new(), joining:
            *_, data = [message for message in received if b"onMetaData" in message.body]
            self.assertEqual((data.type_id, data.timestamp), (DATA_AMF0, 0))
            self.assertNotIn(0x11, data.body)
            self.assertEqual(amf0.decode(data.body), ["onMetaData", {"width": 128.0}])

    def test_aggregate(self) -> None:
        publisher = self.publisher()
        player = self.world.connect().open()
        player.play()
        parts = b""
        for message in aac(1000), avc(1010, False):
            head = bytes((message.type_id,)) + len(message.body).to_bytes(3, "big")
            tag = head + message.timestamp.to_bytes(3, "big") + bytes(4) + message.body
            parts += tag + len(tag).to_bytes(4, "big")
        publisher.send(Message(messages.AGGREGATE, 1, 40, parts))
        self.assertEqual([plain(m) for m in player.new()], [plain(aac(40)), plain(avc(50, False))])

    def test_for_a_time(self) -> None:
        """As rtmpdump asks for it with --stop."""
        publisher = self.publisher()
        player = self.world.connect().open()
        player.call("play", None, "key", -1000.0, 5000.0, stream_id=1)
        for second in range(1, 5):
            publisher.send(aac(second * 1000))
            self.world.pass_time(1)
            self.assertEqual([plain(m) for m in media(player.new())], [plain(aac(second * 1000))])
        self.world.pass_time(1)
        received = player.new()
        self.assertEqual(codes(received), ["NetStream.Play.Stop"])
        self.assertIn(messages.user_control(messages.STREAM_EOF, 1), received)
        self.assertFalse(player.closing)
        publisher.send(aac(6000))
        self.assertEqual(player.new(), [])
        self.assertIn("NetStream.Play.Start", codes(player.play()))
        self.world.pass_time(10)
        self.assertEqual(codes(player.new()), [])

    def test_the_time_begins_with_the_media(self) -> None:
        player = self.world.connect().open()
        player.call("play", None, "key", -1000.0, 5000.0, stream_id=1)
        self.world.pass_time(20)
        publisher = self.publisher()
        self.world.pass_time(5)
        self.assertNotIn("NetStream.Play.Stop", codes(player.new()))
        self.world.pass_time(1)
        self.assertEqual(codes(player.new()), ["NetStream.Play.Stop"])
        publisher.leave()

    def test_no_time(self) -> None:
        self.publisher()
        given: list[amf0.Value] = [-1.0, -1000.0, 0.0, 1.0, 999.0, float("nan"), float("inf"), True, "5000", None]
        for duration in given:
            player = self.world.connect().open()
            player.call("play", None, "key", -2000.0, duration, stream_id=1)
            self.world.pass_time(10)
            self.assertEqual([code for code in codes(player.new()) if code.endswith("Stop")], [], duration)
            player.leave()

    def test_user_control_of_players_is_harmless(self) -> None:
        player = self.world.connect().open()
        player.play()
        body = (messages.SET_BUFFER_LENGTH).to_bytes(2, "big") + bytes(8)
        player.send(Message(USER_CONTROL, 0, 0, body))
        self.assertFalse(player.transport.aborted)


class EndedPlayersTests(SynchronousTestCase):
    """With a coordinator, the players of a publish end with it."""

    def setUp(self) -> None:
        self.world = World(end_players=True)
        self.publisher = self.world.connect().open()
        self.publisher.publish()
        self.publisher.send(AVC_HEADER, avc(0, True))

    def assert_ended(self, player: Client, stream_id: int = 1) -> None:
        received = player.new()
        self.assertEqual(codes(received), ["NetStream.Play.UnpublishNotify"])
        self.assertEqual(received[-1], messages.user_control(messages.STREAM_EOF, stream_id))
        self.assertTrue(player.closing)

    def test_every_end(self) -> None:
        ends: dict[str, Callable[[Client], object]] = {
            "stopped": lambda client: client.call("deleteStream", None, 1.0),
            "lost": lambda client: client.leave(),
            "killed": lambda client: self.world.broker.kill("channel", None, "killed"),
            "garbage": lambda client: client.feed(b"\xff" * 100),
        }
        for end in ends.values():
            self.setUp()
            player, other = self.world.connect().open(), self.world.connect().open()
            other.call("createStream", None)
            player.play()
            other.play(stream_id=2)
            end(self.publisher)
            self.assert_ended(player)
            self.assert_ended(other, 2)

    def test_in_one_write_behind_the_media(self) -> None:
        player = self.world.connect().open()
        player.play()
        writes = len(player.transport.writes)
        self.publisher.send(avc(33, False), messages.command("deleteStream", 5, None, 1.0))
        self.assertEqual([plain(m) for m in media(player.received + player.new())][-1], plain(avc(33, False)))
        self.assertEqual(len(player.transport.writes) - writes, 2)
        self.assertTrue(player.closing)

    def test_taken_over(self) -> None:
        player = self.world.connect().open()
        player.play()
        self.world.clock.advance(1)
        second = self.world.connect().open()
        second.publish()
        self.assertFalse(player.closing)
        self.world.pass_time(2)
        self.assertEqual(codes(second.new()), ["NetStream.Publish.Start"])
        self.assert_ended(player)
        newcomer = self.world.connect().open()
        newcomer.play("key?cache=clear")
        second.send(AVC_HEADER, avc(7, True))
        self.assertEqual([plain(m) for m in media(newcomer.new())], [plain(AVC_HEADER), plain(avc(7, True))])
        self.assertFalse(newcomer.closing)

    def test_who_waits_is_left_alone(self) -> None:
        self.publisher.call("deleteStream", None, 1.0)
        player = self.world.connect().open()
        player.play()
        other = self.world.connect().open()
        other.publish()
        self.assertEqual(codes(player.new()), ["NetStream.Play.PublishNotify"])
        self.assertFalse(player.closing)
        other.leave()
        self.assert_ended(player)

    def test_a_connection_that_plays_what_it_publishes(self) -> None:
        for end in "killed", "closed", "lost":
            self.setUp()
            log = Log(self)
            self.publisher.call("createStream", None)
            self.publisher.play(stream_id=2)
            if end == "killed":
                self.world.broker.kill("channel", None, "killed")
            elif end == "closed":
                self.publisher.call("closeStream", None, stream_id=1)
            else:
                self.publisher.leave()
            self.assertEqual(self.world.broker.channels(), [])
            self.assertEqual(len(log.lines(LogLevel.critical)), 0)
            ends = [line for line in log.lines() if "stopped" in line]
            self.assertEqual(len(ends), 2, ends)
            self.assertEqual([event[0] for event in self.world.authority.events], ["start", "end"])


class LogTests(SynchronousTestCase):
    def test_no_key_in_the_log(self) -> None:
        log = Log(self)
        world = World()
        publisher = world.connect().open()
        publisher.publish("secretkey")
        player = world.connect().open()
        player.play("secretkey?cache=all")
        world.connect().open().play("secretkey2")
        world.connect().open().publish("secretkey3")
        world.connect().open().publish("secret key4")
        world.connect().open("channel/secretkey5").publish("")
        world.connect().open("channel/secretkey6").publish("key")
        world.connect().open("channel/secret key7")
        publisher.leave()
        player.leave()
        special = World(names=NameRules(allow_special=True))
        special.connect().open("channel/secretkey8").publish("")
        special.connect().open("channel/secretkey8").play("")
        special.connect().open("channel/secretkey9").publish("a>b")
        special.connect().open("/secretkey9").publish("")
        text = "\n".join(log.lines())
        self.assertIn("publishing channel", text)
        self.assertNotIn("secret", text)
