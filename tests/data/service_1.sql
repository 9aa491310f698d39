BEGIN TRANSACTION;
CREATE TABLE audio (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	info JSON NOT NULL, 
	used FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audio" VALUES('abababababababababababababababababababababababababababababababab','talk.wav',48044,'{"audio_s":1.5,"sample_rate":16000,"channels":1}',1793000000.5);
INSERT INTO "audio" VALUES('cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','broken.mp3',3002,'{"error":{"kind":"decode","subject":"broken.mp3","problem":"isn''t audio","advice":null,"option":null}}',1793000001.0);
CREATE TABLE events (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	job_id VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	data JSON NOT NULL, 
	at FLOAT NOT NULL
);
INSERT INTO "events" VALUES(1,'a1b2c3d4e5f60708','job','{"state":"queued"}',1793000002.0);
INSERT INTO "events" VALUES(2,'a1b2c3d4e5f60708','item','{"position":0,"state":"running"}',1793000003.0);
INSERT INTO "events" VALUES(3,'a1b2c3d4e5f60708','job','{"state":"running"}',1793000003.5);
INSERT INTO "events" VALUES(4,'a1b2c3d4e5f60708','item','{"position":1,"state":"running"}',1793000004.0);
INSERT INTO "events" VALUES(5,'a1b2c3d4e5f60708','item','{"position":0,"audio_s":1.5,"audio_done_s":0.0}',1793000005.0);
INSERT INTO "events" VALUES(6,'a1b2c3d4e5f60708','item','{"position":0,"audio_done_s":1.0}',1793000005.5);
INSERT INTO "events" VALUES(7,'a1b2c3d4e5f60708','item','{"position":0,"state":"done","audio_s":1.5,"audio_done_s":1.5}',1793000006.0);
INSERT INTO "events" VALUES(8,'a1b2c3d4e5f60708','item','{"position":1,"state":"failed"}',1793000006.5);
INSERT INTO "events" VALUES(9,'a1b2c3d4e5f60708','job','{"state":"partly"}',1793000007.5);
INSERT INTO "events" VALUES(10,'1111222233334444','job','{"state":"queued"}',1793000008.5);
INSERT INTO "events" VALUES(11,'1111222233334444','item','{"position":0,"state":"running"}',1793000009.5);
INSERT INTO "events" VALUES(12,'1111222233334444','job','{"state":"running"}',1793000010.0);
INSERT INTO "events" VALUES(13,'1111222233334444','item','{"position":0,"audio_s":1.5,"audio_done_s":0.0}',1793000011.0);
INSERT INTO "events" VALUES(14,'9999888877776666','job','{"state":"queued"}',1793000012.0);
INSERT INTO "events" VALUES(15,'9999888877776666','item','{"position":0,"state":"cancelled"}',1793000012.5);
INSERT INTO "events" VALUES(16,'9999888877776666','job','{"state":"cancelled"}',1793000013.5);
CREATE TABLE items (
	job_id VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	audio_id VARCHAR(64) NOT NULL, 
	name VARCHAR NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	audio_s FLOAT, 
	audio_done_s FLOAT NOT NULL, 
	begun FLOAT, 
	result JSON, 
	error JSON, 
	owner VARCHAR(32), 
	lease FLOAT, 
	PRIMARY KEY (job_id, position), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE, 
	FOREIGN KEY(audio_id) REFERENCES audio (id)
);
INSERT INTO "items" VALUES('a1b2c3d4e5f60708',0,'abababababababababababababababababababababababababababababababab','talk.wav','done',1.5,1.5,1793000004.5,'{"input":"talk.wav","state":"done","audio_s":1.5,"format":"wav","notes":[]}',NULL,NULL,NULL);
INSERT INTO "items" VALUES('a1b2c3d4e5f60708',1,'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','broken.mp3','failed',NULL,0.0,NULL,NULL,'{"kind":"decode","subject":"broken.mp3","problem":"isn''t audio","advice":null,"option":null}',NULL,NULL);
INSERT INTO "items" VALUES('1111222233334444',0,'abababababababababababababababababababababababababababababababab','talk.wav','running',1.5,0.0,1793000010.5,NULL,NULL,'0f0f0f0f0f0f0f0f',1793000039.0);
INSERT INTO "items" VALUES('9999888877776666',0,'abababababababababababababababababababababababababababababababab','talk.wav','cancelled',1.5,0.0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE jobs (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	voice VARCHAR NOT NULL, 
	options JSON NOT NULL, 
	created FLOAT NOT NULL, 
	started FLOAT, 
	ended FLOAT, 
	cancel BOOLEAN NOT NULL, 
	idempotency_key VARCHAR(200), 
	fingerprint VARCHAR(64), 
	UNIQUE (id), 
	UNIQUE (idempotency_key)
);
INSERT INTO "jobs" VALUES(1,'a1b2c3d4e5f60708','convert','partly','wren','{"transpose":2}',1793000001.5,1793000002.5,1793000007.0,0,'abc','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(2,'1111222233334444','convert','running','wren','{}',1793000008.0,1793000009.0,NULL,0,NULL,NULL);
INSERT INTO "jobs" VALUES(3,'9999888877776666','convert','cancelled','wren','{}',1793000011.5,NULL,1793000013.0,1,NULL,NULL);
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema','1');
CREATE INDEX ix_audio_used ON audio (used);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_events_job_id ON events (job_id);
CREATE INDEX ix_items_state ON items (state);
CREATE INDEX ix_items_audio_id ON items (audio_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',3);
INSERT INTO "sqlite_sequence" VALUES('events',16);
COMMIT;
